"""Phrases of web boilerplate, Chinese and English, as regular expressions in RE2's syntax, matched without case.

They are whole short lines or fixed formulas of pages, no single words: prose that speaks of cookies or of logging in is
not what they match.
"""

from __future__ import annotations

#: Links of menus and footers, alone on a line or in a row; _ stands for a blank or a hyphen.
_MENU = """
home homepage main_page about about_us contact contact_us log_?in sign_?in sign_?up log_?out
register subscribe unsubscribe search menu skip_to_(?:main_)?content site_?map help faqs? support news blog
careers jobs press privacy(?:_policy)? terms(?:_(?:of_(?:use|service)|and_conditions))? cookies?
cookie_settings next prev previous next_page previous_page next_post previous_post older_posts
newer_posts back_to_top top read_more learn_more view_all see_all show_more load_more more
close share tweet pin_it like reply print email facebook twitter linkedin instagram youtube pinterest whatsapp rss
leave_a_(?:comment|reply) comments? tags? add_to_(?:cart|wishlist|bag) checkout my_account view_cart
shop download archives categories advertisement sponsored
首页 主页 返回首页 网站首页 登录 登陆 注册 免费注册 立即登录 立即注册 退出 搜索 菜单 导航 网站导航 站点地图
网站地图 关于我们 联系我们 联系方式 帮助 帮助中心 客服 在线客服 加入收藏 收藏本站 设为首页 收藏 分享 分享到 点赞
评论 举报 打印 打印本页 关闭 关闭窗口 返回 返回顶部 回到顶部 返回列表 上一篇 下一篇 上一页 下一页 尾页 末页 更多
查看更多 加载更多 阅读全文 阅读更多 展开 收起 下载 点击下载 立即下载 友情链接 相关阅读 相关推荐 热门推荐 猜你喜欢
最新文章 热门文章 推荐阅读 扫一扫 微信 微博 朋友圈 购物车 加入购物车 我的订单 个人中心 意见反馈 免责声明 隐私政策
隐私声明 用户协议 服务条款 使用条款 法律声明 招聘信息 加入我们 人才招聘 广告 广告服务 新闻中心 产品中心 公司简介
"""
#: No colons and no heading marks: "FAQ:" and "# FAQ" open a part of a text.
_BETWEEN = r"[\s|/·•»›>«‹<\-–—,，、\[\]()（）*!+&\d]"
_ITEM = "|".join(_MENU.split()).replace("_", "[ -]")
#: A line of nothing but menu items and marks between them.
MENU_LINE = f"^{_BETWEEN}*(?:(?:{_ITEM})(?:{_BETWEEN}+|$))+{_BETWEEN}*$"

#: Formulas that make a short line boilerplate: at its beginning, anywhere, and with words between their parts.
_OPENING = (
    r"(?:proudly )?powered by \w+(?: \w+){0,3}\W*$|\d+ (?:comments?|shares?|views?|likes?|replies)\W*$",
    r"(?:posted|published|submitted|filed) (?:by|in|on|under)\b[^.;!?'\"]{0,60}$",
    r"(?:tags?|categories|filed under)\s*[:：].{0,80}$|(?:related (?:posts|articles)|you may also like)\W*$",
    r"(?:上一篇|下一篇|上一章|下一章|本文链接|本文地址|转载请注明|责任编辑|文章来源|发布时间|发布日期|更新时间"
    r"|浏览次数|点击次数|阅读次数|点击数|浏览量|阅读量)\s*[:：].{0,60}$",
)
_ANYWHERE = (
    r"accept (?:all )?cookies|cookie (?:settings|preferences|notice)|manage (?:your )?(?:cookie )?preferences",
    r"(?:copyright|©|\(c\))\s*(?:©|\(c\))?\s*(?:19|20)\d\d|all rights reserved|click here to|this entry was posted",
    r"share (?:this|on) (?:article|post|page|facebook|twitter|linkedin)|follow us on|like us on facebook",
    r"(?:sign up|subscribe) (?:for|to) (?:our|the) (?:newsletter|mailing list|updates)|enter your e-?mail",
    r"版权所有|著作权所有|保留所有权利|公网安备|增值电信业务|接受(?:所有|全部)\s*cookies?|分享到[:：]|忘记密码",
    r"[京沪粤浙苏津渝冀晋辽吉黑皖闽赣鲁豫鄂湘桂琼川贵云陕甘青蒙宁新藏]ICP[备证]|还没有(?:账号|帐号)",
    r"您(?:现在|当前)?的位置|当前位置[:：]|请(?:先)?(?:登录|登陆)后",
)
_APART = (
    r"(?:we|this (?:web)?site|our (?:web)?site|by continuing)\b.{0,80}\b(?:uses?|using) (?:of )?cookies",
    r"(?:点击|扫描|长按|识别).{0,8}(?:二维码|下载|关注|查看原文|阅读原文)|关注.{0,12}(?:公众号|微信号|官方微博)"
    r"|(?:本站|本网站|我们).{0,12}使用.{0,6}cookies?",
)
#: What makes a line boilerplate, as few patterns as match fast: gaps in one of many alternatives slow them all.
LINES = (MENU_LINE, rf"^\W*(?:{'|'.join(_OPENING)})", "|".join(_ANYWHERE), *_APART)
#: Longer lines are paragraphs that happen to hold such a formula.
MAX_LINE_CHARS = 160

#: Pages that are nothing but a message, by what they are.
PAGES = {
    "error page": (
        r"\b(?:error\W{0,3})?(?:404|403|500|502|503)\b\W{0,3}(?:error|not found|forbidden|page|internal|bad gateway)"
        r"|page (?:you (?:are|were) looking for|(?:was |could )?not(?: be)? found|does not exist|cannot be found)"
        r"|(?:sorry|oops)\W.{0,60}(?:can'?t find|couldn'?t find|not found|went wrong|no longer (?:exists?|available))"
        r"|access denied|internal server error|service unavailable|bad gateway"
        r"|(?:访问|请求|查找|浏览)的(?:页面|网页|内容|地址)[^。\n]{0,12}(?:不存在|找不到|未找到|已删除|被删除|无法)"
        r"|(?:页面|网页)(?:不存在|未找到|找不到|无法显示|无法访问|已被删除)|无法找到(?:该|此)?(?:页|网页)"
        r"|服务器(?:内部)?错误|拒绝访问"
    ),
    "login wall": (
        r"(?:please|you must|you need to) (?:log ?in|sign ?in|register|subscribe) (?:to|in order to|before)"
        r"|(?:log ?in|sign ?in|subscribe) to (?:continue|read|view|see|access)|forgot (?:your )?password|members only"
        r"|(?:登录|登陆|注册)后(?:才能|方可|可以|可|即可)?(?:查看|阅读|浏览|下载|访问|继续)|请(?:先)?(?:登录|登陆|注册)"
        r"|忘记密码|验证码登录|付费(?:后)?(?:可)?(?:阅读|查看)"
    ),
    "blocked page": (
        r"(?:enable|requires?|turn on) javascript|javascript (?:is (?:disabled|required)|must be enabled)"
        r"|verify (?:that )?you are (?:a )?human|are you a robot|checking your browser|complete the captcha"
        r"|(?:启用|开启|打开|支持)\s*javascript|(?:安全|人机|滑动)验证|请完成验证|访问过于频繁"
        r"|您的(?:IP|访问)(?:已)?被(?:限制|拦截|禁止)|unusual traffic"
    ),
    "placeholder page": (
        r"domain (?:name )?(?:is|may be) (?:for sale|parked)|buy this domain|default web ?site page"
        r"|(?m:^\W*(?:coming soon|under construction|it works!)\W*$)|welcome to nginx|apache2? (?:\w+ )?default page"
        r"|hello world!? welcome to wordpress|(?:网站|页面|本站|栏目)(?:正在)?(?:建设|维护|升级)中"
        r"|(?m:^.{0,12}敬请期待\W*$)|域名(?:正在)?(?:出售|转让)|暂无(?:内容|数据|相关)|内容正在(?:更新|整理)"
    ),
}

#: What advertising and pages made for search engines say.
ADVERTS = (
    r"buy (?:now|online|cheap)|order (?:now|online|today)|click here|limited (?:time )?offer|free shipping|best price"
    r"|lowest price|discount(?:ed)? (?:price|code|coupon)|coupon codes?|money[ -]back guarantee|act now|\d+ ?% off"
    r"|call (?:us )?(?:now|today)|online casino|payday loans?|replica (?:watches|handbags)|viagra|cialis"
    r"|essay writing service|work from home|make money online"
    r"|加(?:我|他|她)?微信|微信号|扫码|加[qQ]{2}|[qQ]{2}群|咨询热线|咨询电话|联系电话|免费咨询|在线咨询|热线电话"
    r"|招商加盟|加盟电话|加盟费|代开发票|专业办证|无抵押贷款|贷款(?:热线|咨询)|包邮|优惠券|限时(?:优惠|抢购|特价)|立即(?:购买|抢购|咨询|申请)"
    r"|点击(?:购买|进入|咨询|领取)|厂家直销|厂家批发|价格优惠|欢迎(?:来电|咨询|选购|订购)|批发价"
    r"|百家乐|博彩|娱乐城|时时彩|六合彩|赌场|彩票平台|私服|外挂|代孕|棋牌游戏"
)
